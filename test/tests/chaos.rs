//! `checkout chaos` as a person types it: a short run on a real platform is clean, and a history that was tampered with is not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use testing::platform::{Folder, program};

fn chaos(words: &[&str]) -> Output {
    Command::new(program()).arg("chaos").args(words).output().expect("checkout starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn check(history: &Path) -> (Option<i32>, String) {
    let output = chaos(&["--check", history.to_str().unwrap()]);
    (output.status.code(), text(&output))
}

/// The history with its last user richer by one, as if something had not been debited.
fn with_one_too_much(lines: &[Value]) -> String {
    let is_user = |line: &&Value| line["line"] == "final" && line["is"] == "user";
    let user = lines.iter().rev().find(is_user).expect("a user at the end").clone();
    let richer = |line: &Value| {
        let mut line = line.clone();
        if line == user {
            line["credit"] = (line["credit"].as_i64().unwrap() + 1).into();
        }
        format!("{line}\n")
    };
    lines.iter().map(richer).collect()
}

#[test]
fn a_platform_that_is_hurt_keeps_its_promises_and_a_history_that_is_changed_does_not() {
    let folder = Folder::new_temporary();
    let words =
        "--minutes 0.3 --seed 1 --rate 15 --pause 2 --faults kill:service,kill:nats,kill:redis,stream,link,fill --data";
    let mut words: Vec<&str> = words.split(' ').collect();
    words.push(folder.path().to_str().unwrap());
    let output = chaos(&words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("verdict: clean"), "{}", text(&output));

    let history = folder.path().join("history.jsonl");
    let lines = fs::read_to_string(&history).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["line"] == "fault"), "nothing was hurt");
    assert!(text(&output).contains("all agrees"), "the audit was not asked: {}", text(&output));
    let checkouts = lines.iter().filter(|line| line["command"]["do"] == "checkout");
    assert!(checkouts.filter(|line| line["reply"]["status"] == 200).count() > 10, "hardly anything was bought");

    assert_eq!(check(&history).0, Some(0));
    let tampered = folder.path().join("tampered.jsonl");
    fs::write(&tampered, with_one_too_much(&lines)).unwrap();
    let (code, said) = check(&tampered);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("credit is what came in less what went out"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_starts() {
    for (words, why) in [
        (vec!["--faults", "failover"], "there is no such fault"),
        (vec!["--rate", "0"], "must be more than 0"),
        (vec!["--fault-command", "true"], "--url"),
    ] {
        let output = chaos(&words);
        assert_eq!(output.status.code(), Some(64), "{words:?}");
        assert!(text(&output).contains(why), "{words:?}: {}", text(&output));
    }
}
