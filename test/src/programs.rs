//! Two builds of the services, which take each other's place under a running platform.

use std::fs;
use std::path::{Path, PathBuf};

use crate::platform::{SERVICES, program};

/// A build of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// This one.
    This,
    /// What could be its next version: `common` with the feature `next-version`, built by `make next`.
    Next,
}

impl Build {
    /// The program of a service in this build.
    ///
    /// # Panics
    /// It is not built.
    fn program(self, service: &str) -> PathBuf {
        let this = program().with_file_name(service);
        match self {
            Self::This => this,
            Self::Next => {
                let next = this.with_file_name("next").join(service);
                assert!(next.is_file(), "{} is not built: run `make next`", next.display());
                next
            }
        }
    }
}

/// A folder of programs from which a platform runs. Whoever is started from it next is of the build that was put there last.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// All of this build, in a new folder below `parent`.
    pub fn in_folder(parent: &Path) -> Self {
        let folder = parent.join("bin");
        fs::create_dir(&folder).expect("a new folder");
        let programs = Self { folder };
        programs.put("checkout", &program());
        SERVICES.iter().for_each(|service| programs.exchange(service, Build::This));
        programs
    }

    /// The program `checkout`.
    pub fn checkout(&self) -> PathBuf {
        self.folder.join("checkout")
    }

    /// The instances of a service that are started from now on are of this build. Those that run are not touched.
    pub fn exchange(&self, service: &str, build: Build) {
        self.put(service, &build.program(service));
    }

    /// In one step, so that nobody starts half a program, and by another file, because one that runs cannot be written.
    fn put(&self, name: &str, from: &Path) {
        let fresh = self.folder.join(format!("{name}.new"));
        fs::copy(from, &fresh).expect("a copy of the program");
        fs::rename(&fresh, self.folder.join(name)).expect("in the place of the other one");
    }
}
