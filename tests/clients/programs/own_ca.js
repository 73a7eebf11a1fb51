const options = { ca: require("fs").readFileSync(process.argv[3]) };
require("https").get(process.argv[2], options, (response) => {
  response.on("data", (data) => process.stdout.write(data));
});
