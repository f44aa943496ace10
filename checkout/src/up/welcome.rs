//! What a person is told when the platform is up: where it is, and how to look inside.
//!
//! To look into NATS takes a password. It is neither printed nor typed: `nats` finds it in its environment, into which the file `nats.env`
//! puts it, together with the address. That is one line to type before the first look, and every further command is shorter for it.

use std::path::PathBuf;

use crate::failure::Failure;
use crate::folder::{Folder, Platform};
use crate::say;
use crate::secrets::{Secrets, write_private};

/// Prints the first page.
pub fn print(platform: &Platform, folder: &Folder) {
    for line in lines(platform, folder) {
        say::out(&line);
    }
}

/// Writes the file with which the `nats` command line finds server, user and password.
///
/// # Errors
/// The folder cannot be written.
pub fn write_env(platform: &Platform, folder: &Folder) -> Result<(), Failure> {
    let password = Secrets::of(folder).password("nats-observer")?;
    // Every server of a cluster, without the login of this command.
    let plain = platform.nats.split(',').map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    });
    let text = format!(
        "# For the `nats` command line. The user may look at everything and say nothing.\n\
         export NATS_URL='{}'\nexport NATS_USER=observer\nexport NATS_PASSWORD='{}'\n",
        plain.collect::<Vec<_>>().join(","),
        &*password
    );
    write_private(&env_file(folder), &text)
}

fn env_file(folder: &Folder) -> PathBuf {
    folder.root().join("nats.env")
}

fn lines(platform: &Platform, folder: &Folder) -> Vec<String> {
    let url = &platform.gateway;
    vec![
        String::new(),
        format!("checkout is up: {url}    (Ctrl-C drains and stops it)"),
        String::new(),
        format!("  try it          curl -X POST {url}/payment/create_user"),
        format!("  look inside     . {}    (once per shell; then:)", say::word(&env_file(folder))),
        "  streams         nats stream ls".to_owned(),
        "  consumers       nats consumer report CHECKOUT".to_owned(),
        "  watch sagas     nats sub --headers-only 'checkout.>'    (or payment.>, stock.>; without the flag for contents)"
            .to_owned(),
        "  look back       nats stream view CHECKOUT".to_owned(),
        "  price service   nats micro stats stock".to_owned(),
        format!("  processes       checkout status --data {}", say::word(folder.root())),
        format!("  logs, pids      {0}/log  {0}/run", say::word(folder.root())),
        String::new(),
    ]
}
