import sys

import pycurl

curl = pycurl.Curl()
curl.setopt(pycurl.URL, sys.argv[1])
print(curl.perform_rs())
