"""Pictures, videos and the faces in them: found, masked, cropped, followed and put effects on. Needs no torch."""
