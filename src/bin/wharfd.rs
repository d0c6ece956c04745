//! The daemon: the only holder of the engine's socket.

fn main() {}
