import sys

from curl_cffi import requests

print(requests.get(sys.argv[1], impersonate="chrome").text)
