"""The web pages: rendered by the server from what RegionService says, kept live by its event stream."""
