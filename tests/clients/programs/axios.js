const axios = require("axios");
axios.get(process.argv[2]).then((response) => console.log(response.data));
