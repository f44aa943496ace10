//! Two versions of a library in one database: each instance calls the functions that belong to it, whoever comes first, last or again.

use common::redis::{Call, Database, Library, Operation, Options, libraries};
use common::shutdown::Tasks;
use futures::future::join_all;
use testing::servers::{PATIENCE, Redis};

use crate::support::{Bench, LIBRARY, add_one, far, is_ok};

/// The next version of [`LIBRARY`]: the same function under the same name, and what is called for one does not fit the other.
const NEXT: Library = Library::new(
    "probe",
    "
local function add(keys, args)
  return once(keys, args, function()
    if args[3] ~= 'twice' then
      return { 'not for this version' }
    end
    return { 'ok', digits(redis.call('INCRBY', keys[2], 2 * args[4])) }
  end)
end
redis.register_function('probe_add' .. VERSION, add)
",
);

fn add_twice() -> Call {
    Call::once(&NEXT, "probe_add", &Operation::internal("POST /add".into()), &["counter"]).arg("twice").arg(1)
}

async fn open(redis: &Redis, library: Library) -> (Database, Tasks) {
    let tasks = Tasks::new();
    let database = Database::open(&redis.url(), library, Options::lanes(2), &tasks).unwrap();
    assert!(database.wait_until_connected(PATIENCE).await, "{}", database.describe_outage());
    (database, tasks)
}

#[tokio::test]
async fn each_version_calls_its_own_functions_also_after_the_database_has_lost_them() {
    let mut bench = Bench::start(2).await;
    let (next, _tasks) = open(&bench.redis, NEXT).await;
    let mut expected = 0;
    for round in 0..4 {
        for _ in 0..20 {
            let (one, other) = futures::join!(bench.database.call(add_one(), far()), next.call(add_twice(), far()));
            assert!(is_ok(&one) && is_ok(&other), "{one:?} {other:?}");
            expected += 3;
        }
        // Whoever comes back first loads, and the other one must not find its own gone or changed.
        match round {
            0 => drop(bench.redis.console().ask(&["FUNCTION", "FLUSH"])),
            1 => bench.redis.restart(),
            _ => drop(bench.redis.console().ask(&["FUNCTION", "DELETE", &LIBRARY.loaded_name()])),
        }
    }
    assert_eq!(bench.counter(), expected);
}

#[tokio::test]
async fn many_instances_load_one_version_at_once() {
    let redis = Redis::start();
    let opened = join_all((0..16).map(|n| open(&redis, if n % 2 == 0 { LIBRARY } else { NEXT }))).await;
    let loaded = libraries::list(&redis.url()).await.unwrap();
    assert_eq!(loaded.len(), 2, "{loaded:?}");
    drop(opened);
}

#[tokio::test]
async fn other_code_under_the_name_of_a_version_is_refused_and_said_so() {
    let redis = Redis::start();
    let mut console = redis.console();
    let name = LIBRARY.loaded_name();
    let function = LIBRARY.versioned("probe_add");
    let other = format!("#!lua name={name}\nredis.register_function('{function}', function() return {{ 'ok' }} end)");
    console.ask(&["FUNCTION", "LOAD", &other]);
    let tasks = Tasks::new();
    let database = Database::open(&redis.url(), LIBRARY, Options::lanes(1), &tasks).unwrap();
    assert!(!database.wait_until_connected(std::time::Duration::from_millis(300)).await);
    let advice = format!("FUNCTION DELETE {name}");
    crate::support::eventually("it says what to do", || database.describe_outage().contains(&advice)).await;
    assert!(!database.is_connected(), "an instance that must not work is not ready");
    console.ask(&["FUNCTION", "DELETE", &name]);
    assert!(is_ok(&database.call(add_one(), far()).await), "{}", database.describe_outage());
}

#[tokio::test]
async fn only_a_version_that_nobody_uses_is_removed_and_who_needs_it_after_all_has_it_again() {
    let bench = Bench::start(1).await;
    let url = bench.redis.url();
    let (next, tasks) = open(&bench.redis, NEXT).await;
    let foreign = "#!lua name=probes\nredis.register_function('foreign', function() return 1 end)";
    bench.redis.console().ask(&["FUNCTION", "LOAD", foreign]);
    assert!(libraries::remove_unused(&url, "probe").await.unwrap().is_empty());
    let used = libraries::list(&url).await.unwrap().into_iter().filter(|library| library.connections > 0);
    assert_eq!(used.count(), 2);
    assert!(is_ok(&next.call(add_twice(), far()).await));
    drop(next);
    assert!(tasks.drain(PATIENCE).await);
    crate::support::eventually("its connections are gone", || {
        !bench.redis.console().text(&["CLIENT", "LIST"]).unwrap().contains(&NEXT.loaded_name())
    })
    .await;
    assert_eq!(libraries::remove_unused(&url, "probe").await.unwrap(), [NEXT.loaded_name()]);
    let left: Vec<_> = libraries::list(&url).await.unwrap().into_iter().map(|library| library.name).collect();
    assert_eq!(left, [LIBRARY.loaded_name(), "probes".to_owned()]);
    let (next, _tasks) = open(&bench.redis, NEXT).await;
    assert!(is_ok(&next.call(add_twice(), far()).await) && is_ok(&bench.database.call(add_one(), far()).await));
    assert_eq!(bench.counter(), 5);
}
