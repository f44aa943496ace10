//! What a person is told when the platform is up: where it is, and how to look inside.

use crate::folder::{Folder, Platform};
use crate::say;

/// Prints the first page.
pub fn print(platform: &Platform, folder: &Folder) {
    for line in lines(platform, folder) {
        say::out(&line);
    }
}

fn lines(platform: &Platform, folder: &Folder) -> Vec<String> {
    let url = &platform.gateway;
    let nats = format!("nats --server {}", platform.nats);
    vec![
        String::new(),
        format!("checkout is up: {url}    (Ctrl-C drains and stops it)"),
        String::new(),
        format!("  try it          curl -X POST {url}/payment/create_user"),
        format!("  streams         {nats} stream ls"),
        format!("  consumers       {nats} consumer report CHECKOUT"),
        format!(
            "  watch sagas     {nats} sub --headers-only 'checkout.>'    (or payment.>, stock.>; without the flag for contents)"
        ),
        format!("  look back       {nats} stream view CHECKOUT"),
        format!("  price service   {nats} micro stats stock"),
        format!("  processes       checkout status --data {}", say::word(folder.root())),
        format!("  logs, pids      {0}/log  {0}/run", say::word(folder.root())),
        String::new(),
    ]
}
