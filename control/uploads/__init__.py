"""Custom images on their way in: announced, received file by file, whole, an image.

    uploads    an upload and its states: announced, received, complete or failed, forgotten
    receiving  one file that comes in: bytes -> the store's ingest, hashed on the way, the same road as a synced file
    parts      what is here of files, and who brings which just now
    rooms      room on the disk for what an upload lacks
    documents  an upload as the API shows it
    rules      names, base images, types; pure        magic  first bytes of files; pure

The connection is api.uploads; what racks see is publish's.
"""
