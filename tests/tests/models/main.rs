//! Models of what runs at the same time, each searched through all interleavings. They say what
//! the code's steps are, in which order, and by which functions: where the code changes, so must
//! they.
//!
//! Every model is also searched with its steps in a wrong order. What is not found then, the model
//! does not check.

mod adopt;
mod handshake;
mod policy;
mod search;
