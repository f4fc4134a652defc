print("cardfs")
