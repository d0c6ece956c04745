//! Docker's own API, where its answers need more than bollard's types.

pub(crate) mod fault;
pub(crate) mod lines;
pub(crate) mod presence;
