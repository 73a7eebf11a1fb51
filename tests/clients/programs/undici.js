const { request } = require("undici");
request(process.argv[2]).then(({ body }) => body.text()).then(console.log);
