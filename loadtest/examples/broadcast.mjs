// The server that the load program's adapter `broadcast` speaks to, in a dozen lines over npm's `ws`: every binary message
// goes to all other connections of the same path. `npm install ws`, then `node broadcast.mjs 8080`.
import { WebSocketServer } from "ws";

const rooms = new Map();
new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2] ?? 8080) }).on("connection", (socket, request) => {
  const room = rooms.get(request.url) ?? new Set();
  rooms.set(request.url, room.add(socket));
  socket.on("message", (message, isBinary) => {
    for (const other of room) if (other !== socket) other.send(message, { binary: isBinary });
  });
  socket.on("close", () => room.delete(socket) && room.size === 0 && rooms.delete(request.url));
  socket.on("error", () => socket.terminate());
});
