const url = typeof Deno === "undefined" ? process.argv[2] : Deno.args[0];
fetch(url).then((response) => response.text()).then(console.log);
