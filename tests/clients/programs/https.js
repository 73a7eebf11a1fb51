require("https").get(process.argv[2], (response) => {
  response.on("data", (data) => process.stdout.write(data));
});
