require "open-uri"
puts URI.parse(ARGV[0]).open.read
