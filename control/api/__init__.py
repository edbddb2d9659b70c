"""The REST API of a region: routes, schemas, who may call, how errors are told."""
