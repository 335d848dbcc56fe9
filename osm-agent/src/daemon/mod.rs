//! The node agent: keeps the pods of its node intercepted.
//!
//! ```text
//! sources ──Event──▶ loop ──▶ wanted ┐
//!   files, Kubernetes,               ├─▶ plan (pure) ─▶ actions ─▶ Interceptor ─▶ kernel
//!   init and CNI requests    real  ──┘      │
//!                            ▲              ▼
//!                          kernel    Notice, Status, metrics
//! ```
//!
//! * [`control`]: the loop,
//! * [`source`]: what is wanted, and by whom it is said,
//! * [`locate`]: where a pod is in the kernel,
//! * [`status`]: what the loop shows of itself, and [`metrics`], what it counts,
//! * [`request`]: what init containers and the CNI plugin ask for,
//! * [`confine`]: what it gives up first of all,
//! * [`run`]: puts it all together, and [`serve`]: what a service has to have.

pub mod confine;
pub mod control;
pub mod locate;
pub mod metrics;
mod options;
pub mod request;
pub mod run;
pub mod serve;
pub mod source;
pub mod status;
