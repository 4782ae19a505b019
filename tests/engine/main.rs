//! Our doors before the WebRTC engine, shown with the real engine on both sides.

#[cfg(test)]
mod activation;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod mutation;
#[cfg(test)]
mod pair;
