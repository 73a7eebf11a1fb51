const [url, ...says] = process.argv.slice(2);
const socket = new WebSocket(url);
socket.binaryType = "arraybuffer";
let first = true;
socket.onmessage = ({ data }) => {
  console.log(typeof data === "string" ? data : `b'${Buffer.from(data).toString("hex").replace(/../g, "\\x$&")}'`);
  if (first) says.forEach((text) => socket.send(text));
  first = false;
};
socket.onerror = (event) => console.log("error");
socket.onclose = ({ code, reason }) => console.log(code, reason);
