//! The few rules of the house that check themselves (see ARCHITECTURE.md for why each of them is one).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the workspace.
struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The text before the file's own tests.
    fn code(&self) -> &str {
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }

    /// Lines of code, without comments, with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().lines().enumerate().map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn collect(folder: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, sources);
            }
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root()).unwrap().display().to_string();
            sources.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root(), &mut sources);
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    sources
}

/// Fails with every line, of the files that `applies` to, in which a forbidden word stands.
fn forbid(rule: &str, words: &[&str], applies: impl Fn(&Source) -> bool) {
    let sources = sources();
    let mut applied = 0;
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| applies(source)) {
        applied += 1;
        for (number, line) in source.lines() {
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(applied > 0, "{rule}: applies to no file");
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Whether the word stands in the line and is not the end of a longer one (`common::redis::` is not `redis::`).
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().unwrap_or(' ');
        !(before.is_alphanumeric() || before == '_' || before == ':')
    })
}

fn is_service(source: &Source) -> bool {
    source.is_in(&["order/src/", "payment/src/", "stock/src/"])
}

fn file_name(source: &Source) -> &str {
    source.path.rsplit('/').next().unwrap_or_default()
}

#[test]
fn decisions_are_pure() {
    let words = [
        ".await",
        "async",
        "redis",
        "async_nats",
        "tokio",
        "SystemTime",
        "Instant",
        "Uuid",
        "rand",
        "wall_clock_ms",
        "Database",
        "Broker",
        "std::env",
    ];
    // `.await` follows a word, so it is looked for as it is.
    let is_decision = |source: &Source| {
        file_name(source) == "decision.rs" || source.path == "common/src/undo.rs" || source.is_in(&["audit/src/"])
    };
    forbid("decisions know no I/O, no clock and no chance", &words, is_decision);
    for source in sources().iter().filter(|source| is_decision(source)) {
        assert!(!source.code().contains(".await"), "{} waits", source.path);
    }
}

#[test]
fn each_service_has_a_decision() {
    let sources = sources();
    for path in ["order/src/decision.rs", "payment/src/decision.rs", "stock/src/decision.rs", "common/src/undo.rs"] {
        assert!(sources.iter().any(|source| source.path == path), "{path} is gone");
    }
}

#[test]
fn the_redis_crate_is_used_in_one_place() {
    let elsewhere = |source: &Source| !source.is_in(&["common/src/redis/", "test/"]) && source.path.contains("/src/");
    forbid("only common/src/redis names the redis crate", &["redis::", "use redis"], elsewhere);
}

#[test]
fn the_nats_crate_is_used_in_one_place() {
    let elsewhere = |source: &Source| !source.is_in(&["nats/", "test/"]) && source.path.contains("/src/");
    forbid("only nats names async_nats", &["async_nats::", "use async_nats"], elsewhere);
}

/// The names under `[dependencies]` of a package.
fn dependencies(package: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned()))
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn who_may_depend_on_which_client() {
    for (dependency, allowed) in [("redis", ["common", "test"]), ("async-nats", ["nats", "test"])] {
        for package in ["common", "nats", "audit", "order", "payment", "stock", "checkout", "test"] {
            let has = dependencies(package).iter().any(|name| name == dependency);
            assert_eq!(has, allowed.contains(&package), "{package} and {dependency}");
        }
    }
}

#[test]
fn every_call_of_the_database_is_written_in_an_effect() {
    let words = ["Call::function", "Call::command", "Call::once", "Call::chunk", "Call::new"];
    let elsewhere = |source: &Source| {
        let is_effect = is_service(source) && file_name(source) == "effect.rs";
        source.path.contains("/src/") && !is_effect && !source.is_in(&["common/src/redis/", "test/"])
    };
    forbid("what is sent to a database is written in effect.rs", &words, elsewhere);
    let commands = |source: &Source| is_service(source) && file_name(source) == "command.rs";
    forbid("commands are turned into calls and do not make them", &["Database", "Broker", "async fn"], commands);
}

#[test]
fn the_environment_is_read_in_settings_only() {
    let allowed = |source: &Source| ["config.rs", "settings.rs", "service.rs"].contains(&file_name(source));
    let elsewhere =
        |source: &Source| (is_service(source) || source.is_in(&["common/src/", "nats/src/"])) && !allowed(source);
    forbid(
        "only config.rs, settings.rs and service.rs read the environment",
        &["std::env", "env::var", "env::args"],
        elsewhere,
    );
}

#[test]
fn files_end_before_five_hundred_lines() {
    let long: Vec<_> = sources()
        .iter()
        .map(|source| (source.text.lines().count(), source.path.clone()))
        .filter(|(lines, _)| *lines >= 500)
        .collect();
    assert!(long.is_empty(), "look for the seam: {long:?}");
}

/// The names in `Setting { name: "…"`.
fn settings() -> Vec<String> {
    let mut names = Vec::new();
    for source in
        sources().iter().filter(|source| source.is_in(&["common/src/", "order/src/", "payment/src/", "stock/src/"]))
    {
        for rest in source.code().split("Setting {").skip(1) {
            if let Some(rest) = rest.trim_start().strip_prefix("name: \"") {
                names.extend(rest.split('"').next().map(str::to_owned));
            }
        }
    }
    assert!(names.len() > 15, "only {names:?}");
    names
}

#[test]
fn every_setting_stands_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let missing: Vec<_> = settings().into_iter().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

/// The image is built from what `.dockerignore` lets through, and cargo wants to see every member of the workspace.
#[test]
fn the_image_is_built_from_all_that_belongs_to_the_workspace() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, members) = manifest.split_once("members = [").expect("the members");
    let (members, _) = members.split_once(']').expect("their end");
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let lines: Vec<&str> = ignored.lines().collect();
    let members: Vec<&str> = members.split(',').map(|member| member.trim().trim_matches('"')).collect();
    assert!(members.contains(&"order"), "the members are written in another way");
    for member in members {
        let whole = format!("!{member}");
        let manifest_only = format!("!{member}/Cargo.toml");
        let comes = lines.iter().any(|line| *line == whole || *line == manifest_only);
        assert!(comes, "{member} does not come into the image: .dockerignore has neither {whole} nor {manifest_only}");
    }
}
