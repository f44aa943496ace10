//! Every bound of this command in one place, each with its reason.

use std::time::Duration;

/// First pause before a process that died is started again.
pub const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: a process that cannot live costs at most a start in this time.
pub const RESTART_CAP: Duration = Duration::from_secs(5);
/// A process that lived this long was healthy; its next death is a new story and is answered quickly again.
pub const RESTART_HEALTHY: Duration = Duration::from_secs(10);
/// A process that lived shorter than this died of something its log tells.
pub const DIED_AT_ONCE: Duration = Duration::from_secs(2);
/// How often it is looked whether a database that has lost its disk may come back as a replica, and whether one has caught up.
pub const REVIVAL_POLL: Duration = Duration::from_millis(200);
/// Lines of a log that are quoted when a process fails.
pub const LOG_LINES_QUOTED: usize = 8;
/// How many other ports are tried when a free one was taken between our look and the child's bind.
pub const PORT_ATTEMPTS: u32 = 5;
/// Most instances of one service: more only makes sense by mistake.
pub const SCALE_MAX: u16 = 64;

/// How often readiness is asked while the platform starts.
pub const READY_POLL: Duration = Duration::from_millis(50);
/// When the person is told what is still waited for.
pub const READY_NEWS: Duration = Duration::from_secs(5);
/// One readiness answer may take this long.
pub const READY_ANSWER: Duration = Duration::from_secs(2);

/// The gateway, then the services, get this long to finish what they have accepted before they are killed. Longer than any
/// request may take, so that a healthy service always ends by itself.
pub const DRAIN: Duration = Duration::from_secs(20);
/// nats-server and redis-server flush and end; a large append-only file needs a moment.
pub const SERVERS_STOP: Duration = Duration::from_secs(15);
/// `checkout down` waits for the whole of the above, and a little.
pub const DOWN: Duration = Duration::from_secs(90);

/// A log larger than this is moved aside (to `NAME.log.1`) when its process is first started.
pub const LOG_ROTATE_BYTES: u64 = 64 << 20;

/// Connections that may wait in the kernel for the gateway to accept them; the kernel lowers it to `net.core.somaxconn`. "A few
/// thousand clients that connect at once" must fit.
pub const GATEWAY_BACKLOG: u32 = 8192;
/// Request bodies are held in memory so that they can be sent to a second instance when the first cannot be reached. No route of the
/// API reads a body, so this only bounds what strangers send.
pub const GATEWAY_BODY_BYTES: usize = 64 << 10;
/// A body of that size must be there within this time.
pub const GATEWAY_BODY: Duration = Duration::from_secs(10);
/// How often the gateway asks each instance whether it is ready. A service that drains must stay reachable for longer than this.
pub const GATEWAY_PROBE: Duration = Duration::from_millis(250);
/// An instance that does not say within this time that it is ready is passed over.
pub const GATEWAY_PROBE_ANSWER: Duration = Duration::from_secs(2);
/// Time for a connection to an instance. On one network it is microseconds; a host that swallows packets is passed over after this.
pub const GATEWAY_CONNECT: Duration = Duration::from_secs(2);
/// A service answers a checkout by itself (202) long before this; past it the instance hangs.
pub const GATEWAY_ANSWER: Duration = Duration::from_secs(60);
/// How often a request that an instance took and did not answer is sent again. A request that is the death of each instance which gets it
/// must not go through all of them.
pub const GATEWAY_REPEATS: u32 = 2;
/// For so long after the first such loss another answer is looked for, also from an instance that comes back: as long as a service
/// lets a request wait by default.
pub const GATEWAY_REPEAT_PATIENCE: Duration = Duration::from_secs(10);
/// An instance that leaves so many looks in a row without an answer stands still: others are asked for what it has in hand.
pub const GATEWAY_PROBES_MISSED: u32 = 2;
/// Before an instance is asked again that refuses for now what an earlier one took and did not answer.
pub const GATEWAY_ASK_AGAIN: Duration = Duration::from_millis(250);
/// How often it is looked whether an instance is back. A look costs next to nothing; the instances themselves are asked by the probe.
pub const GATEWAY_REPEAT_POLL: Duration = Duration::from_millis(20);
/// Idle connections kept to each instance: as many as clients may be served at once, else a burst opens and closes one each.
pub const GATEWAY_IDLE_PER_INSTANCE: usize = 4096;
/// Idle connections to instances are closed by the gateway (the side that knows it will not use them) after this.
pub const GATEWAY_IDLE: Duration = Duration::from_secs(30);
/// While it drains, the gateway goes on answering on open connections for this time and closes each after its answer, so that a
/// client in mid-conversation is told, not cut off.
pub const GATEWAY_FAREWELL: Duration = Duration::from_millis(500);
/// After the farewell, requests still running get this long. Farewell and this stay below [`DRAIN`].
pub const GATEWAY_DRAIN: Duration = Duration::from_secs(15);
