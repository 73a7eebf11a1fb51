import sys

import urllib3

print(urllib3.PoolManager().request("GET", sys.argv[1]).data.decode())
