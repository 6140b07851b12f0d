"""A small shop that embeds the tag: what a storefront developer looks at, and what the browser tests walk through."""
