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
//! * [`source`]: what is wanted, and by whom it is said,
//! * [`locate`]: where a pod is in the kernel,
//! * [`request`]: what init containers and the CNI plugin ask for,
//! * [`status`]: what the loop shows of itself.

pub mod locate;
pub mod request;
pub mod source;
pub mod status;
