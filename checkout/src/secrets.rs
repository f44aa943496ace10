//! The passwords of a platform: drawn at its first start, one file each in `DIR/secrets`, readable by their owner alone.
//!
//! Whoever needs one is given the file and not the password, so it stands in no environment and in no list of processes. Servers have
//! theirs in configuration files that are as private.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use common::secret::{Login, Secret, with_sentinel_login};
use uuid::Uuid;

use crate::failure::Failure;
use crate::folder::Folder;

/// The user who may do everything, at NATS and at each database.
const ADMIN: &str = "admin";

/// The passwords of one folder.
#[derive(Debug, Clone)]
pub struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    /// Those of this folder.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        Self { folder: folder.root().join("secrets") }
    }

    /// The file of a password, drawn if it is not there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn file(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.join(name);
        if !path.is_file() {
            make_private_folder(&self.folder)?;
            // 244 random bits, in characters that need no quoting anywhere.
            let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
            write_private(&path, &format!("{password}\n"))?;
        }
        Ok(path)
    }

    /// A password, drawn if it is not there.
    ///
    /// # Errors
    /// The folder cannot be written or read.
    pub fn password(&self, name: &str) -> Result<Secret, Failure> {
        let path = self.file(name)?;
        let text = std::fs::read_to_string(&path)
            .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
        Ok(Secret::new(text.trim_end()))
    }

    /// How this command itself logs in at every database.
    ///
    /// # Errors
    /// As [`Secrets::password`].
    pub fn redis_admin(&self) -> Result<Login, Failure> {
        Ok(Login { user: ADMIN.to_owned(), password: self.password("redis-admin")? })
    }

    /// How this command itself logs in at NATS.
    ///
    /// # Errors
    /// As [`Secrets::password`].
    pub fn nats_admin(&self) -> Result<Login, Failure> {
        Ok(Login { user: ADMIN.to_owned(), password: self.password("nats-admin")? })
    }

    /// How this command itself logs in at the sentinels, whose administrator is the default user: as they do at each other.
    ///
    /// # Errors
    /// As [`Secrets::password`].
    pub fn sentinel(&self) -> Result<Login, Failure> {
        Ok(Login { user: "default".to_owned(), password: self.password("sentinel")? })
    }

    /// A database's URL as this command itself uses it.
    ///
    /// # Errors
    /// As [`Secrets::password`].
    pub fn in_redis_url(&self, url: &str) -> Result<Secret, Failure> {
        let whole = self.redis_admin()?.in_url(url);
        if !url.starts_with("redis+sentinel://") {
            return Ok(whole);
        }
        Ok(with_sentinel_login(&whole, &self.sentinel()?))
    }
}

/// Makes a folder that only its owner may look into, or makes it so.
///
/// # Errors
/// It cannot be made.
pub fn make_private_folder(path: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|error| Failure::failed(format!("cannot make the folder {}: {error}", path.display())))
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    let temporary = path.with_extension("tmp");
    let _ = std::fs::remove_file(&temporary);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_drawn_once_and_nobody_else_may_read_it() {
        let root = std::env::temp_dir().join(format!("checkout-secrets-{}", std::process::id()));
        let folder = Folder::create(Some(root)).unwrap();
        let (one, two) = (Secrets::of(&folder), Secrets::of(&folder));
        let password = one.password("redis-order").unwrap();
        assert_eq!(password.len(), 64);
        assert_eq!(two.password("redis-order").unwrap(), password, "it stays");
        assert_ne!(one.password("redis-stock").unwrap(), password);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&one.folder), mode(&one.file("redis-order").unwrap())), (0o700, 0o600));
        std::fs::remove_dir_all(folder.root()).unwrap();
    }
}
