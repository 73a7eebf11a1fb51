"""Get a URL with a revocation list: get_checked.py CRL URL."""

import ssl
import sys
import urllib.request

context = ssl.create_default_context()
context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
context.load_verify_locations(sys.argv[1])
try:
    with urllib.request.urlopen(sys.argv[2], timeout=20, context=context) as response:
        print(response.read().decode())
except OSError as error:
    sys.exit(str(error))
