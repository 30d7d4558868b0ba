"""The S3 driver: snapshots as plain tar packs and plain objects in a bucket, with an index to every file's bytes.

    <prefix>/.tierd/tier.json                          the identity
    <prefix>/.tierd/contents/<content id>/<copy>       empty marker: which copies hold this content
    <prefix>/<dataset>/<snapshot>/<copy>/              one copy; its name is the transfer that made it
        packs/00001.tar …                              small files, in plain tar
        packs/tree.tar                                 directories, links, devices: unpacked last
        files/<path>                                   large files as they are
        entries.db.zst                                 every entry, its digest, and where its bytes are
        manifest.json                                  written last: without it there is no copy
        used-by/<dataset>/<snapshot>/<copy>            another copy that shares these bytes

The commit point is `manifest.json`. What lies beside no manifest and is used by no other copy is litter.
"""
