local https = require("ssl.https")
local body, code = https.request({
  url = arg[1], verify = "peer", cafile = "/etc/ssl/certs/ca-certificates.crt",
  sink = function(chunk) if chunk then io.write(chunk) end return 1 end,
})
if not body then io.stderr:write(tostring(code)) end
