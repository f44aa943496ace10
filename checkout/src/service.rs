//! The three services, as this command knows them: a name, a path prefix, a default number of instances.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the three services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Orders and their sagas.
    Order,
    /// Users and their credit.
    Payment,
    /// Items and their stock.
    Stock,
}

impl Service {
    /// All of them, in the order in which a request meets them.
    pub const ALL: [Self; 3] = [Self::Order, Self::Payment, Self::Stock];

    /// Name of the binary, of the instances (`order-1`) and of the database (`redis-order`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Stock => "stock",
        }
    }

    /// The path prefix this service serves.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Order => "/orders",
            Self::Payment => "/payment",
            Self::Stock => "/stock",
        }
    }

    /// The service whose prefix `path` begins with, at a segment boundary: `/orders` and `/orders/find/5`, not `/ordersX`.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| {
            path.strip_prefix(service.prefix()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|service| service.name() == text)
            .ok_or_else(|| format!("no service is called '{text}': there are order, payment and stock"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_the_service_whose_prefix_ends_at_a_segment() {
        assert_eq!(Service::of_path("/orders/find/5"), Some(Service::Order));
        assert_eq!(Service::of_path("/payment"), Some(Service::Payment));
        assert_eq!(Service::of_path("/stock/"), Some(Service::Stock));
        for stranger in ["/", "", "/ordersX", "/order/find/5", "/x/orders", "/Stock/find/1"] {
            assert_eq!(Service::of_path(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for service in Service::ALL {
            assert_eq!(service.name().parse::<Service>().unwrap(), service);
        }
        assert!("orders".parse::<Service>().unwrap_err().contains("orders"));
    }
}
