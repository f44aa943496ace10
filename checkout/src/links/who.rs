//! Which process has made a connection: the one that has the other socket open, of those that `checkout up` has started.
//!
//! To look costs some milliseconds, however many are looked for. So all who have connected while it was looked the last time are looked for together:
//! when everybody connects anew, after a fault, that must not become a second one.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot};

use crate::folder::{Folder, UP};
use crate::procs;

/// An accepted connection: the address from which it was made, and that to which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// An answer is a name; nothing where it is somebody else, or nobody any more.
type Question = (Ends, oneshot::Sender<Option<String>>);

/// Answers who has connected.
#[derive(Debug)]
pub(super) struct Who {
    questions: mpsc::UnboundedSender<Question>,
}

impl Who {
    pub(super) fn new(folder: &Folder) -> Self {
        let (questions, asked) = mpsc::unbounded_channel();
        tokio::spawn(answer(folder.clone(), asked));
        Self { questions }
    }

    pub(super) async fn ask(&self, ends: Ends) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        let _ = self.questions.send((ends, answer));
        answered.await.ok().flatten()
    }
}

async fn answer(folder: Folder, mut asked: mpsc::UnboundedReceiver<Question>) {
    while let Some(first) = asked.recv().await {
        let mut questions = vec![first];
        while let Ok(question) = asked.try_recv() {
            questions.push(question);
        }
        let folder = folder.clone();
        let ends: Vec<Ends> = questions.iter().map(|(ends, _)| *ends).collect();
        let found = tokio::task::spawn_blocking(move || look(&folder, &ends)).await.unwrap_or_default();
        for (ends, answer) in questions {
            let _ = answer.send(found.get(&ends).cloned());
        }
    }
}

fn look(folder: &Folder, all: &[Ends]) -> HashMap<Ends, String> {
    let sockets = procs::connected_sockets();
    let mut wanted: HashMap<String, Ends> =
        all.iter().filter_map(|ends| Some((sockets.get(&(ends.from, ends.to))?.clone(), *ends))).collect();
    let mut found = HashMap::new();
    // A process is written down before it has had the time to connect to anybody.
    for name in folder.recorded().into_iter().filter(|name| name != UP) {
        let Some(birth) = folder.birth(&name) else { continue };
        found.extend(procs::sockets(birth.pid).filter_map(|socket| Some((wanted.remove(&socket)?, name.clone()))));
    }
    found
}
