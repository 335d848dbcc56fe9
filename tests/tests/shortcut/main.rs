//! What applications and sidecars see of the loopback shortcut: nothing, but for the time it takes.
//!
//! Every scenario is played twice, over a connection that nobody intercepts and over those that may
//! take the shortcut, and what both ends saw is compared. `OSM_SHORTCUT=off` plays all of it over
//! redirected connections without the shortcut.

mod bytes;
mod closing;
mod compare;
mod connecting;
mod differences;
mod http;
mod lifetime;
mod peers;
mod storm;
mod waiting;
