//! Roles and the permissions they stand for (ACL2).
//!
//! A role is a name for a set of permissions; a token may allow more or deny some of them for one user.
//! Only the resulting [`Permissions`] decide: no code asks which role somebody has in order to let them
//! do something. Where the question is asked is [`crate::room`]; where the answer comes from is
//! [`crate::token`].

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A named set of permissions. Each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees and hears everything, says nothing.
    Viewer,
    /// Also comments and reacts.
    Commenter,
    /// Also writes, and publishes audio and video.
    Editor,
    /// Everything: deletes what others wrote, invites, removes, changes permissions, ends the room.
    Admin,
}

impl Role {
    /// Every role, from the least to the most powerful.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Commenter, Self::Editor, Self::Admin];

    /// What the role permits when nothing is overridden.
    #[must_use]
    pub fn permissions(self) -> Permissions {
        use Permission::{Comment, PublishMedia, React, Read, Write};
        match self {
            Self::Viewer => Permissions::from(Read),
            Self::Commenter => Self::Viewer.permissions() | Comment | React,
            Self::Editor => Self::Commenter.permissions() | Write | PublishMedia,
            Self::Admin => Permissions::ALL,
        }
    }

    /// The name used on the wire, in tokens and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Commenter => "commenter",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such role; there are viewer, commenter, editor and admin")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|role| role.name() == word).ok_or(UnknownRole)
    }
}

/// One thing that somebody may or may not do in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u16)]
pub enum Permission {
    /// Receive messages, events, live state and media.
    Read = 1 << 0,
    /// Send messages and data, and change documents.
    Write = 1 << 1,
    /// Write comments and annotations.
    Comment = 1 << 2,
    /// Add and take back reactions.
    React = 1 << 3,
    /// Publish audio, video and screen.
    PublishMedia = 1 << 4,
    /// Delete what others wrote.
    Delete = 1 << 5,
    /// Invite users and make share links.
    Invite = 1 << 6,
    /// Remove participants.
    Remove = 1 << 7,
    /// Change the role and permissions of others.
    ManagePermissions = 1 << 8,
    /// End the room for all.
    EndRoom = 1 << 9,
}

impl Permission {
    /// Every permission, in the order in which sets are listed.
    pub const ALL: [Self; 10] = [
        Self::Read,
        Self::Write,
        Self::Comment,
        Self::React,
        Self::PublishMedia,
        Self::Delete,
        Self::Invite,
        Self::Remove,
        Self::ManagePermissions,
        Self::EndRoom,
    ];
}

/// A set of [`Permission`]s; written as a list of their names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Permissions(u16);

impl Permissions {
    /// Nothing at all.
    pub const NONE: Self = Self(0);

    /// All there are.
    pub const ALL: Self = Self((1 << Permission::ALL.len()) - 1);

    /// Whether the set holds `permission`.
    #[must_use]
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & permission as u16 != 0
    }

    /// The set without what `denied` holds.
    #[must_use]
    pub fn without(self, denied: Self) -> Self {
        Self(self.0 & !denied.0)
    }

    /// Whether nothing is permitted.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in the order of [`Permission::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }
}

impl From<Permission> for Permissions {
    fn from(permission: Permission) -> Self {
        Self(permission as u16)
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(members: I) -> Self {
        members.into_iter().fold(Self::NONE, |set, member| set | member)
    }
}

impl<T: Into<Self>> BitOr<T> for Permissions {
    type Output = Self;

    fn bitor(self, other: T) -> Self {
        Self(self.0 | other.into().0)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Permission>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// What one user may do beyond, and short of, their role. A denial wins over an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    /// Permitted although the role does not permit it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub allow: Permissions,
    /// Forbidden although the role permits it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub deny: Permissions,
}

impl Overrides {
    /// Whether the role stands as it is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// What somebody of this role with these overrides may do.
    #[must_use]
    pub fn apply(self, role: Role) -> Permissions {
        (role.permissions() | self.allow).without(self.deny)
    }
}

fn is_none(set: &Permissions) -> bool {
    set.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_includes_the_one_before_it() {
        for pair in Role::ALL.windows(2) {
            let (less, more) = (pair[0].permissions(), pair[1].permissions());
            assert!(less.without(more).is_empty(), "{} has what {} has not", pair[0], pair[1]);
            assert_ne!(less, more);
        }
    }

    #[test]
    fn only_an_admin_rules_over_others() {
        for permission in [
            Permission::Delete,
            Permission::Invite,
            Permission::Remove,
            Permission::ManagePermissions,
            Permission::EndRoom,
        ] {
            assert!(!Role::Editor.permissions().contains(permission), "{permission:?}");
            assert!(Role::Admin.permissions().contains(permission), "{permission:?}");
        }
    }

    #[test]
    fn a_denial_wins_over_an_allowance() {
        let overrides = Overrides {
            allow: Permissions::from(Permission::Write) | Permission::Invite,
            deny: Permissions::from(Permission::Write) | Permission::Read,
        };
        assert_eq!(overrides.apply(Role::Viewer), Permissions::from(Permission::Invite));
    }

    #[test]
    fn sets_are_lists_of_names_in_a_fixed_order() {
        let set: Permissions = serde_json::from_str(r#"["publish_media","read","read"]"#).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["read","publish_media"]"#);
        assert_eq!(serde_json::to_value(Permissions::ALL).unwrap().as_array().unwrap().len(), 10);
    }

    #[test]
    fn a_misspelt_permission_or_override_is_refused() {
        assert!(serde_json::from_str::<Permissions>(r#"["raed"]"#).is_err());
        assert!(serde_json::from_str::<Overrides>(r#"{"denied":["write"]}"#).is_err());
    }

    #[test]
    fn role_names_read_back() {
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert_eq!("Admin".parse::<Role>(), Err(UnknownRole));
    }
}
