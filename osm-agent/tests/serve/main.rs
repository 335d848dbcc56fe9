//! The node agent as a service: HTTP, metrics, flags, and how the process ends.

mod flags;
mod http;
mod metrics;
mod server;
mod status;
mod wiring;
