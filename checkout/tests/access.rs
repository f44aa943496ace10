//! Who may do what in a database is written down three times: in `checkout up`, in the script with which containers start one, and in the values for a
//! chart. They are the same.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use checkout::folder::Folder;
use checkout::secrets::Secrets;
use checkout::service::Service;
use checkout::up::access::redis_users;

/// The one that only a container needs: its health check has no password to read.
const HEALTH: &str = "user health on nopass resetchannels -@all +ping +role";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn with_secrets<T>(name: &str, look: impl FnOnce(&Secrets) -> T) -> T {
    let root = std::env::temp_dir().join(format!("checkout-{name}-{}", std::process::id()));
    let folder = Folder::create(Some(root)).unwrap();
    let seen = look(&Secrets::of(&folder));
    std::fs::remove_dir_all(folder.root()).unwrap();
    seen
}

/// What the shell would put into the lines of the script that say who may do what.
fn of_script(service: Service, secrets: &Secrets) -> BTreeSet<String> {
    let mut text = read("compose/redis.sh").replace("$SERVICE", service.name()).replace('"', "");
    while let Some((before, rest)) = text.split_once("$(secret ") {
        let (name, after) = rest.split_once(')').expect("a name of a password");
        text = format!("{before}{}{after}", &*secrets.password(name).unwrap());
    }
    let says_who = |line: &&str| ["user ", "masteruser ", "masterauth "].iter().any(|word| line.starts_with(word));
    text.lines().filter(says_who).map(str::to_owned).collect()
}

#[test]
fn a_database_in_a_container_has_the_users_of_one_on_this_machine() {
    with_secrets("users-of-script", |secrets| {
        for service in Service::ALL {
            let users = redis_users(service, secrets).unwrap();
            let wanted: BTreeSet<String> = users.lines().chain([HEALTH]).map(str::to_owned).collect();
            assert_eq!(of_script(service, secrets), wanted, "compose/redis.sh and checkout/src/up/access.rs differ");
        }
    });
}

#[test]
fn a_database_from_the_chart_lets_a_service_do_the_same() {
    with_secrets("users-of-chart", |secrets| {
        for service in Service::ALL {
            let values = read(&format!("k8s/helm/redis-{service}.yaml"));
            let users = redis_users(service, secrets).unwrap();
            let mut found = 0;
            for (user, key) in [("admin", "redis-admin".to_owned()), (service.name(), format!("redis-{service}"))] {
                let begins = format!("user {user} on >{} ", &*secrets.password(&key).unwrap());
                let may = users.lines().find_map(|line| line.strip_prefix(&begins)).expect("the user");
                let wanted = format!("    {user}: {{permissions: \"{may}\", passwordKey: {key}}}");
                assert!(values.lines().any(|line| line == wanted), "{service}: not in its values: {wanted}");
                found += 1;
            }
            // And `default`, for its probes.
            assert_eq!(values.matches("{permissions: ").count(), found + 1, "{service}: somebody more");
        }
    });
}
