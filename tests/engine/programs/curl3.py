"""Get URL with libcurl over HTTP/3 and nothing else; print what came, and over which version."""

import sys

from curl_cffi import CurlHttpVersion, requests

answer = requests.get(
    sys.argv[1],
    http_version=CurlHttpVersion.V3ONLY,
    verify="/etc/ssl/certs/ca-certificates.crt",
    timeout=20,
)
print(answer.http_version, answer.status_code, answer.text)
