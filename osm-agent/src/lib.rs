//! The agent as a library: configuration → policy → datapath.
//!
//! * [`config`]: what people write, parsed and validated,
//! * [`policy`]: what it means, in the form in which the kernel looks it up,
//! * [`pod`]: whom it is for,
//! * [`interceptor`]: what every datapath can do, and [`ebpf`], the one that does it,
//! * [`check`]: what this kernel can do,
//! * [`explain`]: what becomes of one connection, and why,
//! * [`init`]: what an init container does, [`protocol`], in which it asks the node agent, and
//!   [`selfcheck`], by which it proves what is in force,
//! * [`cni`]: the CNI plugin, which has the node agent intercept a pod before it starts,
//! * [`daemon`]: the node agent, which keeps all of this going,
//! * [`monitor`]: what becomes of connections, as it happens,
//! * [`cli`]: the commands.
#![deny(unsafe_code)]

pub mod check;
pub mod cli;
pub mod cni;
pub mod config;
pub mod daemon;
pub mod ebpf;
pub mod error;
pub mod explain;
#[doc(hidden)]
pub mod fuzzed;
pub mod init;
pub mod interceptor;
pub mod iptables;
pub mod monitor;
mod netlink;
pub mod pod;
pub mod policy;
mod privilege;
pub mod protocol;
pub mod selfcheck;
mod sys;
mod transition;
