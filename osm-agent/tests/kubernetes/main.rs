//! The Kubernetes source against a server that does what a real one will not do on demand.

mod agent;
mod connection;
mod judgement;
mod mesh;
mod outages;
mod reports;
mod server;
mod watching;
