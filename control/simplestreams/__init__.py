"""Simplestreams: signed metadata of a boot source in, a plan of verified downloads out.

The order of the modules is the order of trust: fetch (bytes), signature (whose bytes), documents (what they say),
reader (the whole source), select (what of it we want), plan (what that costs). Nothing is parsed before it is verified.
"""
