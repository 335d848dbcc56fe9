//! System calls that no library offers safely: the only unsafe code of the agent.
#![expect(unsafe_code, reason = "this is the one module that may")]

pub mod attached;
pub mod bpf;
pub mod netns;
pub mod program;
pub mod userns;
