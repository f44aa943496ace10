//! Lines to the person. Unlike `println!`, these never panic when the reader has gone (`checkout up | head`): a supervisor that
//! panics because nobody listens would take the platform with it.

use std::io::Write as _;
use std::path::Path;

/// One line on standard output.
pub fn out(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// One line on standard error.
pub fn err(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A path as one word of a command that a person can copy into a shell.
pub fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_word_back_as_the_path() {
        for path in ["/tmp/x-1_2.d", "/tmp/it's here", "/a b", "/$HOME/`x`", "", "/*", "/\"q\"", "/\\'", "/ü"] {
            let script = format!("printf %s {}", word(Path::new(path)));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), path);
        }
        assert_eq!(word(Path::new("/tmp/x")), "/tmp/x");
    }
}
