"""The editors WISE is compared with, one module a family, each imported only when asked for."""
