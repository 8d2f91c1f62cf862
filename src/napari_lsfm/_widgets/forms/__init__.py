"""Forms: each fills a request of the core, and hands it over."""
