//! The one command a person types: `checkout up` runs the whole platform on this machine, `checkout status` and
//! `checkout down` look after it, `checkout gateway` is its one port for all routes, `checkout bench` measures it, `checkout chaos`
//! hurts it and checks what its clients were told, and `checkout dead` looks after what no service could understand.
//!
//! The story of a running platform, in the order of the files:
//!
//! 1. [`up`] finds the server binaries, takes the lock of a [`folder`], stops what an earlier run left behind, starts nats-server
//!    and the three redis-servers, then the services, then the gateway, each supervised, and waits until all are ready;
//! 2. [`gateway`] spreads the requests of one port over the instances of each service;
//! 3. [`status`] and [`down`] read the same folder from outside;
//! 4. [`bench`] puts closed-loop load on the platform of a folder and reads what each process cost from [`procs`];
//! 5. [`topology`] makes the streams and durables, which the services may not, and keeps them;
//! 6. [`chaos`] puts open-loop load and faults on a platform of its own, and [`checker`] judges the history of it;
//! 7. [`dead`] lists, publishes again and drops dead letters, here or at any NATS server;
//! 8. [`audit`] reads the databases and the stream, here or anywhere, and says what does not agree;
//! 9. [`auditor`] follows the stream all the time, and says what can never be; [`healthcheck`] asks it, in a container, whether it does;
//! 10. [`functions`] says which versions of the services' functions their databases hold, and removes old ones;
//! 11. [`links`] is the network between the processes, where it is to be hurt.
//!
//! This crate knows the other parts only by their contract (environment in, HTTP out): it links none of them, but for
//! [`dead`], [`topology`] and [`chaos`], which speak to NATS through the `nats` crate as the services do, and [`audit`], which reads
//! everything and changes nothing.

pub mod audit;
pub mod auditor;
pub mod bench;
pub mod chaos;
pub mod checker;
pub mod dead;
pub mod down;
pub mod failure;
pub mod folder;
pub mod functions;
pub mod gateway;
pub mod healthcheck;
pub mod http_client;
pub mod limits;
pub mod links;
mod own;
pub mod procs;
pub mod say;
pub mod secrets;
pub mod service;
pub mod signals;
pub mod status;
pub mod topology;
mod traces;
pub mod up;
