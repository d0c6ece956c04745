//! The client: what a job calls.

fn main() {}
