//! A WebSocket to an arm, polled.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, ready},
};

use anyhow::Context as _;
use futures_util::{Sink as _, Stream as _};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// See the module.
pub(crate) struct Socket {
    socket: WebSocketStream<TcpStream>,
    is_unflushed: bool,
}

impl Socket {
    /// Connects, as a browser does to the server.
    pub(crate) async fn connect(port: u16) -> anyhow::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().write_buffer_size(0).read_buffer_size(64 * 1024);
        let request = format!("ws://{address}/v1/connect");
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        Ok(Self { socket, is_unflushed: false })
    }

    /// The next message that has come.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<Message>> {
        let message = ready!(Pin::new(&mut self.socket).poll_next(cx));
        // Linux lets a socket that also sends delay its TCP acknowledgements, and on loopback late ones are worked off
        // within the server's writes. The floor's receivers never send and acknowledge at once: so do these.
        SockRef::from(self.socket.get_ref()).set_tcp_quickack(true)?;
        Poll::Ready(message.context("the WebSocket ended").and_then(|message| Ok(message?)))
    }

    /// Writes messages as long as there is one and the socket takes it.
    pub(crate) fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut next: impl FnMut() -> Option<Message>,
    ) -> anyhow::Result<()> {
        loop {
            if self.is_unflushed {
                match Pin::new(&mut self.socket).poll_flush(cx) {
                    Poll::Ready(flushed) => flushed?,
                    Poll::Pending => return Ok(()),
                }
                self.is_unflushed = false;
            }
            let Some(message) = next() else { return Ok(()) };
            Pin::new(&mut self.socket).start_send(message)?;
            self.is_unflushed = true;
        }
    }

    /// Whether something was sent that the socket has not taken yet.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.is_unflushed
    }
}

/// Bytes of an unmasked WebSocket message with so much in it (RFC 6455 §5.2).
pub(crate) fn framed(payload: usize) -> usize {
    let header = match payload {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    header + payload
}
