//! Holds the header comments of Lua functions to their code and to their callers, so that headers do not rot.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

/// How many keys or arguments a function takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// At least so many; exactly so many, unless there may be more.
    least: usize,
    /// The last one is `n…`: none or any number of it.
    is_open: bool,
}

impl Count {
    fn fits(self, number: usize) -> bool {
        if self.is_open { number >= self.least } else { number == self.least }
    }
}

/// A local function of the library: the comment in front of it, and its lines.
#[derive(Debug, Default)]
struct Local {
    header: Vec<String>,
    body: Vec<String>,
}

/// Checks every function that the library registers.
///
/// - Its header names exactly the return codes that its code can return, those of the functions that it calls included.
/// - Some of `calls` (the words of a call as a builder made it) calls it, and each has the numbers of KEYS and ARGV that the
///   header tells.
/// - Its reader knows each code, and refuses one that nobody knows. `reads` says whether the reader of the function takes a
///   code; `None` where the reply of the function is read in another way.
///
/// # Panics
/// With everything that is wrong.
pub fn check(source: &str, calls: &[Vec<String>], reads: impl Fn(&str, &str) -> Option<bool>) {
    let locals = read_locals(source);
    let registered = read_registered(source);
    assert!(!registered.is_empty(), "the library registers no function");
    let mut faults = Vec::new();
    for (name, local) in &registered {
        let header = &locals.get(local).unwrap_or_else(|| panic!("{name} is no local function")).header;
        let (told, found) = (codes_of_header(header), codes_of_code(source, &locals, local));
        if told != found {
            faults.push(format!("{name}: the header tells {told:?}, the code returns {found:?}"));
        }
        let counts = (numbered(header, "KEYS"), numbered(header, "ARGV"));
        let own: Vec<_> = calls.iter().filter(|words| words[0] == "FCALL" && is_version_of(&words[1], name)).collect();
        if own.is_empty() {
            faults.push(format!("{name}: no builder calls it"));
        }
        for words in own {
            let keys: usize = words[2].parse().unwrap();
            let arguments = words.len() - 3 - keys;
            if !counts.0.fits(keys) || !counts.1.fits(arguments) {
                faults.push(format!("{name}: called with {keys} keys, {arguments} arguments, not with {counts:?}"));
            }
        }
        for code in &told {
            if reads(name, code) == Some(false) {
                faults.push(format!("{name}: the reader does not know '{code}'"));
            }
        }
        if reads(name, "invented") == Some(true) {
            faults.push(format!("{name}: the reader takes a code that nobody returns"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Each local function by its name.
fn read_locals(source: &str) -> BTreeMap<String, Local> {
    let mut locals = BTreeMap::new();
    let mut comment = Vec::new();
    let mut open: Option<(String, Local)> = None;
    for line in source.lines() {
        if let Some((name, mut local)) = open.take() {
            if line == "end" {
                locals.insert(name, local);
            } else {
                local.body.push(line.split("--").next().unwrap().to_owned());
                open = Some((name, local));
            }
        } else if let Some(text) = line.strip_prefix("--") {
            comment.push(text.to_owned());
        } else {
            let header = std::mem::take(&mut comment);
            if let Some(rest) = line.strip_prefix("local function ") {
                let name = rest.split('(').next().unwrap().to_owned();
                open = Some((name, Local { header, body: Vec::new() }));
            }
        }
    }
    locals
}

/// The functions that the library registers, each with the local function that it is.
fn read_registered(source: &str) -> Vec<(String, String)> {
    let calls = source.lines().filter_map(|line| line.strip_prefix("redis.register_function("));
    calls
        .map(|rest| {
            let (name, local) = rest.trim_end_matches(')').split_once(", ").expect("a name and a function");
            let name = name.strip_suffix(" .. VERSION").expect("a name with the library's version");
            (name.trim_matches('\'').to_owned(), local.to_owned())
        })
        .collect()
}

/// Whether it is the function of this name in some version of the library.
fn is_version_of(called: &str, name: &str) -> bool {
    let version = called.strip_prefix(name).and_then(|rest| rest.strip_prefix('_'));
    version.is_some_and(|version| version.len() == 16 && version.chars().all(|c| c.is_ascii_hexdigit()))
}

/// The words in quotes with which the `{ … }` after `Returns` begin.
fn codes_of_header(header: &[String]) -> BTreeSet<String> {
    let text = header.join(" ");
    let returns = text.split_once("Returns ").map_or("", |(_, returns)| returns);
    let groups = returns.split('{').skip(1).map(|group| group.split(['}', ',']).next().unwrap());
    groups.flat_map(|head| head.split('\'').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The codes that a function and those that it calls can return.
fn codes_of_code(source: &str, locals: &BTreeMap<String, Local>, name: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::from([name.to_owned()]);
    let mut waiting = vec![name.to_owned()];
    let mut codes = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        let body = locals[&name].body.join("\n");
        codes.extend(body.split("{ '").skip(1).map(|rest| rest.split('\'').next().unwrap().to_owned()));
        // A repeat returns whatever was recorded.
        if body.contains("{ outcome, reason }") {
            codes.extend(recorded_outcomes(source));
        }
        let called = locals.keys().filter(|other| calls(&body, other)).cloned().collect::<Vec<_>>();
        waiting.extend(called.into_iter().filter(|other| reached.insert(other.clone())));
    }
    // Only what the function itself takes out of the answers of others.
    let own = locals[name].body.join("\n");
    for other in own.split("answer[1] ~= '").skip(1) {
        codes.remove(other.split('\'').next().unwrap());
    }
    codes
}

fn calls(body: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    body.match_indices(&format!("{name}(")).any(|(at, _)| !body[..at].ends_with(is_word))
}

/// The first word of each outcome record that the library writes.
fn recorded_outcomes(source: &str) -> impl Iterator<Item = String> {
    let writes = source.lines().filter(|line| line.trim_start().starts_with("record("));
    writes.filter_map(|line| Some(line.split_once('\'')?.1.split_once(' ')?.0.to_owned()))
}

/// Reads `KEYS  1 this  2 that  3… those`, which may go on in the next line.
fn numbered(header: &[String], section: &str) -> Count {
    let begin = header.iter().position(|line| line.trim_start().starts_with(section));
    let Some(begin) = begin else { return Count { least: 0, is_open: false } };
    let belongs = |line: &&String| !["KEYS", "ARGV", "Returns"].iter().any(|word| line.trim_start().starts_with(word));
    let more = header[begin + 1..].iter().take_while(belongs);
    let text = std::iter::once(&header[begin]).chain(more).map(|line| format!("{line}  ")).collect::<String>();
    let mut count = Count { least: 0, is_open: false };
    for part in text.split("  ").map(str::trim).filter(|part| part.starts_with(|c: char| c.is_ascii_digit())) {
        let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
        assert!(!count.is_open, "{text}: something follows an open end");
        assert_eq!(digits.parse(), Ok(count.least + 1), "{text}: numbers follow one another");
        if part[digits.len()..].starts_with('…') {
            count.is_open = true;
        } else {
            count.least += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
-- Records an outcome.
local function record(outcome)
end

local function repeated()
  return { outcome, reason }
end

-- Does it.
--   KEYS  1 one  2 two (of two)
--   ARGV  1 a  2 b
--         3… more
-- Returns { 'done', 'not a code' } | { 'no' | 'never', why }
--       | { 'taken' }
local function act(keys, args)
  record('taken ' .. 1)
  return repeated() or { 'done' } or { 'no' } -- or { 'not this' }
end

redis.register_function('do_it' .. VERSION, act)
";

    fn faults(source: &str, call: &str) -> String {
        let words = call.split(' ').map(str::to_owned).collect();
        let source = source.to_owned();
        let result = std::panic::catch_unwind(move || check(&source, &[words], |_, code| Some(code != "invented")));
        result.err().map(|panic| panic.downcast_ref::<String>().unwrap().clone()).unwrap_or_default()
    }

    #[test]
    fn each_kind_of_rot_is_found() {
        let sound = SOURCE.replace("| 'never'", "");
        assert_eq!(faults(&sound, "FCALL do_it_0123456789abcdef 2 k k a a"), "");
        assert_eq!(faults(&sound, "FCALL do_it_0123456789abcdef 2 k k a a a a a"), "");
        assert!(faults(SOURCE, "FCALL do_it_0123456789abcdef 2 k k a a").contains("never"));
        assert!(
            faults(&sound.replace("{ 'no' }", ""), "FCALL do_it_0123456789abcdef 2 k k a a")
                .contains("the code returns")
        );
        assert!(
            faults(&sound.replace("'taken ' .. 1", "'other ' .. 1"), "FCALL do_it_0123456789abcdef 2 k k a a")
                .contains("other")
        );
        assert!(faults(&sound, "FCALL do_it_0123456789abcdef 1 k a a").contains("1 keys"));
        assert!(faults(&sound, "FCALL do_it_0123456789abcdef 2 k k a").contains("1 arguments"));
        assert!(faults(&sound, "FCALL other_0123456789abcdef 2 k k a a").contains("no builder"));
        assert!(faults(&sound, "FCALL do_it 2 k k a a").contains("no builder"), "a call without a version");
    }
}
