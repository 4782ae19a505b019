//! What must hold in any world, whatever the seed.

mod sockets;
