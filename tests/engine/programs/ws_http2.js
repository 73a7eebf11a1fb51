// Speak as a WebSocket on an HTTP/2 stream (RFC 8441): argument 1 is the origin, 2 the text to say.
const http2 = require("http2");
const [origin, text] = process.argv.slice(2);
const session = http2.connect(origin);

function frame(opcode, payload) {
  const mask = Buffer.from([1, 2, 3, 4]);
  const masked = Buffer.from(payload).map((byte, i) => byte ^ mask[i % 4]);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | masked.length]), mask, masked]);
}

session.once("remoteSettings", ({ enableConnectProtocol }) => {
  console.log("offered", enableConnectProtocol);
  const stream = session.request(
    { ":method": "CONNECT", ":protocol": "websocket", ":path": "/ws", "sec-websocket-version": "13" },
    { endStream: false },
  );
  let held = Buffer.alloc(0);
  stream.on("response", (headers) => console.log(headers[":status"]));
  stream.on("error", (error) => console.log(error.code));
  stream.on("close", () => session.close());
  stream.on("data", (data) => {
    held = Buffer.concat([held, data]);
    while (held.length >= 2 && held.length >= 2 + held[1]) {
      const [opcode, payload] = [held[0] & 15, held.subarray(2, 2 + held[1])];
      held = held.subarray(2 + held[1]);
      if (opcode === 8) {
        console.log("closed", payload.readUInt16BE(0), payload.subarray(2).toString());
        stream.end(frame(8, payload));
      } else {
        console.log(payload.toString());
        if (payload.toString() === "welcome") stream.write(frame(1, text));
      }
    }
  });
});
