//! Who was the primary of a service's database when the platform last ran, read from what the sentinels wrote down.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::failure::Failure;
use crate::folder::Folder;
use crate::say;
use crate::service::Service;
use crate::up::ha::NODES;

/// The name under which the sentinels watch over a service's database.
pub fn group(service: Service) -> String {
    format!("redis-{service}")
}

/// The name of one node of it.
pub fn node(service: Service, number: u16) -> String {
    format!("redis-{service}-{number}")
}

/// The number of the node that was the primary last; 1 where nothing has run yet.
///
/// Ports change from run to run, so the platform writes all configuration anew; only this is taken over. Were another node made the
/// primary, it could lack the last writes, and the one that has them would throw them away to follow it.
///
/// # Errors
/// The data folder is that of a platform without `--ha`.
pub fn last_primary(folder: &Folder, service: Service) -> Result<u16, Failure> {
    let read = |name: &str, file: &str| fs::read_to_string(folder.root().join(name).join(file)).unwrap_or_default();
    let sentinels: Vec<String> = (1..=NODES).map(|it| read(&format!("sentinel-{it}"), "sentinel.conf")).collect();
    let nodes: Vec<String> = (1..=NODES).map(|it| read(&node(service, it), "redis.conf")).collect();
    let recorded = recorded_primary(&sentinels, &nodes, &group(service));
    let homes: Vec<_> = (1..=NODES).map(|it| folder.root().join(node(service, it))).collect();
    let newest = (1..=NODES).zip(&homes).filter_map(|(it, home)| Some((last_written(home)?, it))).max();
    match (recorded, newest) {
        (Some(recorded), Some((_, newest))) if last_written(&homes[usize::from(recorded) - 1]).is_none() => {
            // An empty primary would have its replicas throw everything away.
            say::err(&format!(
                "checkout: {} was the primary and has lost its data; {} takes its place",
                node(service, recorded),
                node(service, newest)
            ));
            Ok(newest)
        }
        (Some(recorded), _) => Ok(recorded),
        (None, Some((_, newest))) => Ok(newest),
        (None, None) => Ok(1),
    }
}

/// What the sentinel of the latest configuration epoch says, by the port that the node had then.
fn recorded_primary(sentinels: &[String], nodes: &[String], group: &str) -> Option<u16> {
    let told = sentinels.iter().filter_map(|text| {
        let of_group = |words: &[&str]| words.get(1).copied() == Some("config-epoch") && words.get(2) == Some(&group);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let monitor = lines.iter().find(|words| words.get(1) == Some(&"monitor") && words.get(2) == Some(&group))?;
        let epoch = lines.iter().find(|words| of_group(words)).and_then(|words| words.get(3)?.parse::<u64>().ok());
        Some((epoch.unwrap_or(0), *monitor.get(4)?))
    });
    let (_, port) = told.max_by_key(|(epoch, _)| *epoch)?;
    // What the others were told, where that is not the port at which it listened.
    let told = |text: &String| {
        let port =
            |directive| text.lines().find_map(|line| line.strip_prefix(directive)).map(|it| it.trim().to_owned());
        port("replica-announce-port ").or_else(|| port("port "))
    };
    let has_port = |text: &String| told(text).as_deref() == Some(port);
    let index = nodes.iter().position(has_port)?;
    u16::try_from(index + 1).ok()
}

/// When a node's append-only file was last written to; nothing where there is none.
pub fn last_written(home: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(home.join("appendonlydir")).ok()?.flatten();
    let files: Vec<_> = entries.filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?))).collect();
    let has_manifest = files.iter().any(|(name, _)| name.to_string_lossy().ends_with(".manifest"));
    let written = files.iter().filter_map(|(_, metadata)| metadata.modified().ok()).max();
    written.filter(|_| has_manifest)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sentinel(port: u16, epoch: u64) -> String {
        format!(
            "port 1\nsentinel monitor redis-stock 127.0.0.1 9 2\nsentinel config-epoch redis-stock 99\n\
             sentinel monitor redis-order 127.0.0.1 {port} 2\nsentinel config-epoch redis-order {epoch}\n"
        )
    }

    #[test]
    fn the_sentinel_that_heard_of_the_last_failover_is_believed() {
        let nodes = ["port 21\n", "bind x\nport 22\n", "port 23\n"].map(str::to_owned);
        let primary = |sentinels: &[String]| recorded_primary(sentinels, &nodes, "redis-order");
        assert_eq!(primary(&[sentinel(21, 1), sentinel(23, 2), sentinel(21, 1)]), Some(3));
        assert_eq!(primary(&[sentinel(22, 0), String::new()]), Some(2));
        assert_eq!(primary(&[sentinel(77, 5)]), None, "no node had this port");
        assert_eq!(primary(&[]), None);
    }

    #[test]
    fn a_node_is_known_by_the_port_that_the_others_were_told() {
        let nodes = ["port 23\nreplica-announce-port 21\n", "port 21\nreplica-announce-port 22\n"].map(str::to_owned);
        assert_eq!(recorded_primary(&[sentinel(21, 1)], &nodes, "redis-order"), Some(1));
        assert_eq!(recorded_primary(&[sentinel(23, 1)], &nodes, "redis-order"), None);
    }

    #[test]
    fn a_primary_without_data_gives_way_to_a_node_that_has_some() {
        let root = std::env::temp_dir().join(format!("checkout-roles-{}", std::process::id()));
        let folder = Folder::create(Some(root)).unwrap();
        assert_eq!(last_primary(&folder, Service::Order).unwrap(), 1, "at the very first start");
        let write = |path: &str, text: &str| {
            let path = folder.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("sentinel-1/sentinel.conf", &sentinel(22, 1));
        for (number, port) in [(1, 21), (2, 22), (3, 23)] {
            write(&format!("redis-order-{number}/redis.conf"), &format!("port {port}\n"));
        }
        for number in [2, 3] {
            write(&format!("redis-order-{number}/appendonlydir/appendonly.aof.manifest"), "");
        }
        assert_eq!(last_primary(&folder, Service::Order).unwrap(), 2);
        fs::remove_dir_all(folder.root().join("redis-order-2/appendonlydir")).unwrap();
        assert_eq!(last_primary(&folder, Service::Order).unwrap(), 3);
        fs::remove_dir_all(folder.root()).unwrap();
    }
}
