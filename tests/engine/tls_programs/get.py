"""Get a URL with requests: get.py [-k] [--cacert FILE] [--cert FILE] URL."""

import argparse
import sys
import warnings

import requests

parser = argparse.ArgumentParser()
parser.add_argument("-k", dest="insecure", action="store_true")
parser.add_argument("--cacert")
parser.add_argument("--cert")
parser.add_argument("url")
given = parser.parse_args()
warnings.simplefilter("ignore")  # of what -k asks for
session = requests.Session()
verify = False if given.insecure else given.cacert or True
try:
    print(session.get(given.url, verify=verify, cert=given.cert, timeout=20).text)
except requests.RequestException as error:
    sys.exit(str(error))
